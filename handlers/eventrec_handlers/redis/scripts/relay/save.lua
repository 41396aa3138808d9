-- Keep what a holder says, and trim what all have settled.
-- KEYS: lease, meta, stream, at, subs, saved
-- ARGV: token, subscription, log, scanned, content
-- Returns {'lost'}, {'gone'}: there is no such log; or what `settle` does, and 1 where the list of subscriptions is lost
if not holds(KEYS[1], ARGV[1]) then return {'lost'} end
if not known(KEYS[2]) or not log_of(KEYS[2], ARGV[3]) then return {'gone'} end
expect(KEYS[3], 'stream')
expect(KEYS[4], 'zset')
expect(KEYS[5], 'hash')
expect(KEYS[6], 'hash')
redis.call('ZADD', KEYS[4], ARGV[4], ARGV[2])
redis.call('HSET', KEYS[6], ARGV[3], ARGV[5])
if redis.call('HSETNX', KEYS[5], ARGV[2], text(clock())) == 1 then return {'ok', 1} end
local settled = settle(KEYS[2], KEYS[3], KEYS[4], KEYS[5], ARGV[3])
if settled == 'gone' then redis.call('HDEL', KEYS[6], ARGV[3]) end
return {settled, 0}
