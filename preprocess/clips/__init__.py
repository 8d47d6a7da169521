"""One clip -> pictures, sound, log-mel; and many of them, in processes that may be killed."""
