"""The dialect of Stability AI's image-to-video API (its hosted service was discontinued in July 2025)."""
