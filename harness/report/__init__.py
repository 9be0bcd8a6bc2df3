"""What a person sees: tables, live progress, plots."""
