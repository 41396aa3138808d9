-- Keep nothing for a subscription any more.
-- KEYS: meta, subs, lease, saved, of a stage its at, state and due, then at:LOG of each log
-- ARGV: subscription, the logs that the caller knows, as meta has them, how many keys are not at:LOG
-- Returns whether it was known; 'again' where there are other logs by now
known(KEYS[1])
expect(KEYS[2], 'hash')
local fixed = tonumber(ARGV[3])
for i = fixed + 1, #KEYS do expect(KEYS[i], 'zset') end
if (redis.call('HGET', KEYS[1], 'logs') or '') ~= ARGV[2] then return 'again' end
local found = redis.call('HDEL', KEYS[2], ARGV[1])
for i = fixed + 1, #KEYS do found = found + redis.call('ZREM', KEYS[i], ARGV[1]) end
redis.call('UNLINK', unpack(KEYS, 3, fixed))
return found > 0 and '1' or '0'
