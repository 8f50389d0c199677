"""Programs that measure speed and memory and print tables; they assert nothing."""
