"""What a user does with a result, in Python."""
