-- Deadlines were evicted: ask at once about some of the keys that have none. The last call says that all are asked.
-- KEYS: due, state
-- ARGV: '1' for the last call, then keys
expect(KEYS[1], 'zset')
expect(KEYS[2], 'hash')
local now = text(clock())
for i = 2, #ARGV do
  if redis.call('HEXISTS', KEYS[2], ARGV[i]) == 1 then redis.call('ZADD', KEYS[1], 'NX', now, ARGV[i]) end
end
if ARGV[1] == '1' then redis.call('ZADD', KEYS[1], '+inf', MARK) end
return 1
