"""The board's pages: each file has `show(view)`, which draws one."""
