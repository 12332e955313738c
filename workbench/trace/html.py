def write_timeline(trace, path): open(path,'w').write('x')
