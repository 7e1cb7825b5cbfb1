"""What the same measurement gives where there is nothing to find."""
