"""What runs leave behind, and everything that reads it: journal, record, tables and pages."""
