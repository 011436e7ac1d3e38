"""Run jobs through a real service while its parts are killed, frozen and cut off."""
