"""What is wrong with a folder of raw clips."""
