-- How many members were seen of late.
-- KEYS: seen
-- ARGV: milliseconds
expect(KEYS[1], 'zset')
return redis.call('ZCOUNT', KEYS[1], '(' .. text(clock() - ARGV[1]), '+inf')
