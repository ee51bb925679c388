"""Is what was predicted what was measured, and what did it cost?"""
