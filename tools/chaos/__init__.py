"""Run jobs through a real service while its processes are killed, frozen and disconnected."""
