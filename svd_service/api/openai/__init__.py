"""The dialect of OpenAI's Videos API (its hosted service was shut down in September 2026), at `/v1/videos`."""
