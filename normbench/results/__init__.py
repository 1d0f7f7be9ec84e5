"""From records to tables, plots and the report."""
