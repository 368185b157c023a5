"""What will it cost: a stage compiled for hardware that is not here, and read for its memory, time and traffic."""
