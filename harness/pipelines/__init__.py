"""Pretrained text-to-image pipelines of diffusers: opened, sampled, probed and recorded as they are."""
