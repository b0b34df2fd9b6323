-- Invariant: all writes of a batch or none, and only while the writer's epoch is the
-- newest. A leader that was overtaken changes nothing, whatever it still believes.
--
-- KEYS[1]  the leader hash
-- ARGV     epoch, then per command: how many words it has, and the words
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then
    return 0
end
local at = 2
while at <= #ARGV do
    local words = tonumber(ARGV[at])
    redis.call(unpack(ARGV, at + 1, at + words))
    at = at + words + 1
end
return 1
