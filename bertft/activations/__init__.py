"""From texts to hidden states: tokenise and sample tokens once, batch by length, and read several models together."""
