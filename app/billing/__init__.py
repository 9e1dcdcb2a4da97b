"""Money: integers of a millionth of the currency ("micros"), moved by an append-only ledger."""
