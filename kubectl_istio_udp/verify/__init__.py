"""Testing an exposure hop by hop: the evidence after a failure, and the cause it shows."""
