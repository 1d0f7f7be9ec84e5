"""Score the GANs of a task and variant by their FID."""

from normbench import stage
from normbench.gan.fid import score

if __name__ == "__main__":
    stage.run(score, "task", "variant")
