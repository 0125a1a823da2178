"""The session transformer: a user's last items in order enter, a vector that ranks items leaves."""
