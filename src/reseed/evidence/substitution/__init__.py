"""Can a partner stand in? Latents are taken out of the subject, or replaced by their partners."""
