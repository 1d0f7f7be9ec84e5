"""The report in a browser, with the progress of the suite's runs."""
