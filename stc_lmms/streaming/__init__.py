"""What happens along one stream: playing, timing."""
