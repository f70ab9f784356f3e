"""What a config's stages do: host code and device code meet here, and only here."""
