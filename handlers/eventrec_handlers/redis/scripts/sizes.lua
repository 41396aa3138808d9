-- What a shard holds, in all its logs. Where a stream begins elsewhere than meta says, that is put right: a server that
-- evicts has removed what was there, or an operator has.
-- KEYS: meta, the stream of each log that the caller knows
-- ARGV: their ids, as meta has them
-- Returns {records, bytes of content}, as text; {ids of the logs} where there are others
local meta = KEYS[1]
if not known(meta) then return {'0', '0'} end
local ids = redis.call('HGET', meta, 'logs') or ''
if ids ~= ARGV[1] then return {ids} end
for i, id in ipairs(log_ids(meta)) do
  local log = log_of(meta, id)
  if log and log.next > log.oldest then look(meta, KEYS[1 + i], id, log) end
end
local records, bytes = totals(meta)
return {text(records), text(bytes)}
