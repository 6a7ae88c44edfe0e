"""An OpenAI-compatible endpoint on this machine, for measuring a sampler with other tools (`rws serve`)."""
