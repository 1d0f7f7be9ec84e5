"""What methods, models and corruptions must do: checked by `normbench check` before training, and by the tests."""
