"""What annotation files may hold, entry by entry."""
