-- Invariant: a run that has not ended is never deleted; one that has goes with its log and its
-- entries in both indexes.
--
-- KEYS     finished runs (zset), all runs (zset)
-- ARGV     ended before this (ms), most to delete, prefix of the runs' keys, of their logs'
local gone = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, run in ipairs(gone) do
    redis.call('DEL', ARGV[3] .. run, ARGV[4] .. run)
    redis.call('ZREM', KEYS[1], run)
    redis.call('ZREM', KEYS[2], run)
end
return #gone
