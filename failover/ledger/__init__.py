"""The clients' record of acknowledged writes: its format, its writer, its reader."""
