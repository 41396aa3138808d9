-- A producer's log is finished: its origin still answers, for so long. A few of the others are looked at, too.
-- KEYS: meta, origins
-- ARGV: origin, end, milliseconds that a finished one is kept, how many others to look at, where it stood at least or ''
-- Returns {'ok'}; {'lost', next of the origin or ''}: it went back, so records of it are gone, and nothing was changed
known(KEYS[1])
local now, next = clock(), tonumber(ARGV[2])
local stored = redis.call('HGET', KEYS[2], ARGV[1])
if ARGV[5] ~= '' and tonumber(string.match(stored or '', '^%d+') or -1) < tonumber(ARGV[5]) then
  return {'lost', stored or ''}
end
if stored then
  local stands = string.match(stored, '^(%d+)')
  if not stands then stop(KEYS[2] .. ' holds what is not ours') end
  next = math.max(next, tonumber(stands))
end
redis.call('HSET', KEYS[2], ARGV[1], text(next) .. ' ' .. text(now))

-- Where the last look ended stands under a name that no origin has.
local found = redis.call('HSCAN', KEYS[2], redis.call('HGET', KEYS[2], ':swept') or '0', 'COUNT', ARGV[4])
for i = 1, #found[2], 2 do
  local retired = string.match(found[2][i + 1], '^%d+ (%d+)$')
  if retired and now - retired > tonumber(ARGV[3]) then redis.call('HDEL', KEYS[2], found[2][i]) end
end
redis.call('HSET', KEYS[2], ':swept', found[1])
return {'ok'}
