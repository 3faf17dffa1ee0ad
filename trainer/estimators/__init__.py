"""What a loss takes as given: eta0 and the rewards."""
