"""A black-box suite that plays golden conversations in each client dialect against any gateway. It talks HTTP to the
gateway on one side and is the gateway's upstream on the other; it shares no code with the gateway's own formats, so
that neither can hide the other's mistakes."""
