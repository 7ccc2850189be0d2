"""The task `shapes-t2i`: drawn images with captions in GenEval's categories, whose combinations are partly held out."""
