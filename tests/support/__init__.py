"""What tests share. Not part of the product."""
