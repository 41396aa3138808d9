-- Keys whose deadline has passed, the oldest first, with what is kept under them.
-- KEYS: due, state
-- ARGV: most
-- Returns {key, value, …}
expect(KEYS[1], 'zset')
expect(KEYS[2], 'hash')
local keys = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(clock()), 'LIMIT', 0, ARGV[1])
local found, stray = {}, {}
for first = 1, #keys, CHUNK do
  local last = math.min(first + CHUNK - 1, #keys)
  local values = redis.call('HMGET', KEYS[2], unpack(keys, first, last))
  for i = first, last do
    local value = values[i - first + 1]
    if value then
      found[#found + 1] = keys[i]
      found[#found + 1] = value
    else
      stray[#stray + 1] = keys[i]
    end
  end
end
in_chunks('ZREM', KEYS[1], stray)
return found
