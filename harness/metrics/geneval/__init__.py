"""GenEval (arXiv 2310.11513): does an image show the objects, counts, colours and places that its prompt asks for?"""
