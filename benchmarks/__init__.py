"""What is measured against bare products and other libraries."""
