"""The parts of the report's page: its tables, what scripts need, and the templates that put them together.

Everything that a reader needs is in the HTML as text, tables and drawings. The script only makes it interactive.
"""
