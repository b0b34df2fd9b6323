-- Invariant: reads only. Of many runs, mostly new ones, it tells those few that have ended.
--
-- ARGV     prefix of the runs' keys; run ids, as a JSON list
-- Returns {place in the list, workflow, status, output, error} of each that has ended; what
--          a run does not have is an empty string
local ended = {}
for place, run in ipairs(cjson.decode(ARGV[2])) do
    local found = redis.pcall('HMGET', ARGV[1] .. run, 'status', 'workflow', 'output', 'error')
    if not found.err and found[1] and found[2] and found[1] ~= 'running' then
        ended[#ended + 1] = {place, found[2], found[1], found[3] or '', found[4] or ''}
    end
end
return ended
