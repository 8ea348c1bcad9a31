"""What happens to runs on machines that fail."""
