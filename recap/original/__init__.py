"""The original's configuration: what it may say, what it says, what is wrong, what it is here."""
