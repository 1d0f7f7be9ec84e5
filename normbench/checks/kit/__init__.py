"""The kit that examines one method: `normbench check TARGET`. Its checks are in the table of `table.py`."""
