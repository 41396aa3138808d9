-- What a shard holds, in all its logs.
-- KEYS: meta
-- Returns {records, bytes of content}, as text
if not known(KEYS[1]) then return {'0', '0'} end
local records, bytes = totals(KEYS[1])
return {text(records), text(bytes)}
