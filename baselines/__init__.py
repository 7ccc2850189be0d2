"""One public file per family of backbones; this folder is the registry."""
