"""The pages of the board, each with `show(view)`: a folder called pages would be taken for Streamlit's own kind."""
