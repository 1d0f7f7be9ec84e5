"""Check params.yaml and write what every later stage depends on."""

from normbench import resolve, stage

if __name__ == "__main__":
    stage.run(resolve.write)
