"""The drivers, one module a command: checkpoints and data in, rows of numbers and the record of the run out."""
