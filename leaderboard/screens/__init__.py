"""The pages of the board: each file has `show(view)`, which draws one.  Streamlit would take a folder called pages for its own."""
